"""No recipe ships without its first losses."""

import re
from pathlib import Path

from footplate.recipes import list_recipes


def test_every_recipe_that_ships_has_golden_losses() -> None:
    tests = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
    named = set(re.findall(r'"([a-z0-9-]+)[ "]', tests))
    assert [recipe.name for recipe in list_recipes() if recipe.name not in named] == []
