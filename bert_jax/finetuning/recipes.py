# SPDX-License-Identifier: Apache-2.0
"""Recipes of fine-tuning by name: entries of configs/finetune.py, files of one's own, and tasks of the table."""

import difflib

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneRecipe
from bert_jax.config.settings import config_names, named_recipes, recipe_file
from bert_jax.tasks.table import find_task


def load_recipe(name: str) -> FinetuneRecipe:
    """Return the recipe of that name, of a Python file that defines `recipe`, or of a task (SST-2 is sst2).

    Raises:
      UserError: there is none.
    """
    if name.endswith(".py"):
        return recipe_file(name)
    recipes = named_recipes()
    if name in recipes:
        return recipes[name]
    if name in config_names():
        raise UserError(f"{name} is a configuration of pre-training: write bert-jax pretrain {name}")
    try:
        task = find_task(name).name
    except UserError:
        near = difflib.get_close_matches(name, recipes, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"there is no recipe {name}: {hint}The recipes are {', '.join(recipes)}, or a .py file"
        ) from None
    return recipes.get(task, FinetuneRecipe(task))
