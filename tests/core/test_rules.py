import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "algorithms" / "rules.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| .+? \| (.+) \|$", TABLE, re.MULTILINE)


def test_every_rule_has_its_row():
    assert [int(number) for number, _ in ROWS] == [*range(1, 49)]


def test_every_test_in_the_table_exists():
    missing = []
    for number, cell in ROWS:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cell)
        assert named, f"rule {number} names no test"
        for file, name in named:
            if not re.search(rf"^def {name}\(", (ROOT / "tests" / "core" / file).read_text(), re.MULTILINE):
                missing.append(f"rule {number}: {file}::{name}")
    assert not missing
