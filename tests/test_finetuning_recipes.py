# SPDX-License-Identifier: Apache-2.0
"""Recipes of fine-tuning: of every task that can be trained on, by the spellings of its name, and from a file."""

import pytest

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.settings import config_names, named_recipes
from bert_jax.finetuning.recipes import load_recipe
from bert_jax.tasks.table import find_task, TASKS

RECIPES = named_recipes()


def test_every_task_with_training_data_has_the_papers_recipe():
    trained = {name for name, task in TASKS.items() if task.trains_with is None}
    assert trained | {"own"} == {name for name, recipe in RECIPES.items() if recipe.config == FinetuneConfig()}
    assert all(RECIPES[name].task == name for name in trained)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_a_task_and_says_what_was_measured(name):
    recipe = RECIPES[name]
    assert recipe.task == "own" or find_task(recipe.task).name == recipe.task
    assert recipe.note
    assert name not in config_names()


def test_a_small_network_has_larger_rates():
    recipe = load_recipe("stsb_tiny")
    optimizer = recipe.config.optimizer
    assert (recipe.task, optimizer.name, optimizer.learning_rate, recipe.config.epochs) == ("stsb", "muon", 1e-3, 10)
    assert recipe.config.optimizer.warmup_share == FinetuneConfig().optimizer.warmup_share


@pytest.mark.parametrize(("name", "task"), [("SST-2", "sst2"), ("SQuAD 1.1", "squad1"), ("ax", "ax")])
def test_a_task_by_its_title_is_its_recipe(name, task):
    assert load_recipe(name).task == task


def test_a_recipe_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from bert_jax.config import FinetuneConfig, FinetuneRecipe\n"
        'recipe = FinetuneRecipe("rte", FinetuneConfig(epochs=9.0))\n'
    )
    assert (load_recipe(str(file)).task, load_recipe(str(file)).config.epochs) == ("rte", 9.0)
    file.write_text("recipe = 3\n")
    with pytest.raises(UserError, match="does not define `recipe = FinetuneRecipe"):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("name", "answer"), [("base", "write bert-jax pretrain base"), ("sst2_tin", "did you mean sst2_tiny")]
)
def test_what_is_no_recipe_is_answered(name, answer):
    with pytest.raises(UserError, match=answer):
        load_recipe(name)
