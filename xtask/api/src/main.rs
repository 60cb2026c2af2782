//! `api FILE` prints the public API that FILE describes, one item per line. FILE is JSON from
//! rustdoc. `api --format` prints the number of the JSON format that this program reads.
//!
//! To keep the text short, it leaves out blanket impls, impls of auto traits, and derived impls. So
//! it does not show whether a type implements `Send`, or has lost a derived `Clone`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).ok_or("usage: api FILE | api --format")?;
    if argument == "--format" {
        println!("{}", public_api::rustdoc_types::FORMAT_VERSION);
        return Ok(());
    }
    let api = public_api::Builder::from_rustdoc_json(argument)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(false)
        .build()?;
    print!("{api}");
    Ok(())
}
