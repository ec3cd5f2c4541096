import os
import subprocess
import sys
from pathlib import Path

import tickets
from anabranch import World

HISTORY = Path(__file__).with_name("tickets.csv")

# Learns all tickets, and prints the models.
LEARN = f"""
import msgspec, tickets
from anabranch import World
with World(tickets.app) as world:
    print(msgspec.json.encode(world.run({{"tickets": {str(HISTORY)!r}}}, key="language").tables["models"]).decode())
"""


def test_a_team_is_guessed_once_there_was_a_ticket_like_it():
    with World(tickets.app) as world:
        guesses = world.run({"tickets": HISTORY}, key="language").topics["guesses"].values
    guesses = [(guess["team"], guess["guessed"]) for guess in guesses]
    assert ("billing", None) in guesses  # the first one
    assert guesses.count(("billing", "billing")) == 2
    assert ("technical", "technical") in guesses


def test_a_model_of_plain_values_is_the_model():
    with World(tickets.app) as world:
        models = world.run({"tickets": HISTORY}, key="language").tables["models"]
    model = tickets.Model(**models["en"])
    assert model.tickets == {"billing": 3, "technical": 2}
    assert tickets.Model.of(model.to_river()) == model


def test_the_models_do_not_depend_on_the_hash_seed():
    shown = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ended = subprocess.run(
            [sys.executable, "-c", LEARN], cwd=HISTORY.parent, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        shown.append(ended.stdout)
    assert shown[0] == shown[1]
