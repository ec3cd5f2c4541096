"""Sorts support tickets by team, with a model of River that learns from each ticket that somebody has sorted.

A value of a table has to be plain data, because it is kept in Kafka and read by whoever reads the changelog; a pickled
model would run code there. The state of River's naive Bayes classifier is three dicts of counts, so the table holds
these, and River's object is made of them for each ticket.

The tickets of a language are in one partition and arrive in their order, so two replays give equal models. Nothing may
depend on Python's hash seed: words are counted in the order of the text, not as a set, and River's `compose.Select`,
which keeps its names in a set, is not used.
"""

import re
from collections import Counter
from typing import Self

import msgspec
from anabranch import App, Stream
from river.naive_bayes import MultinomialNB

Counts = dict[str, int]


class Ticket(msgspec.Struct):
    language: str
    text: str
    team: str


class Guess(msgspec.Struct):
    team: str
    guessed: str | None  # None: nothing has been learned yet


class Model(msgspec.Struct):
    """The counts that a `MultinomialNB` has learned."""

    tickets: Counts = {}
    words: dict[str, Counts] = {}
    totals: Counts = {}

    @classmethod
    def of(cls, river: MultinomialNB) -> Self:
        words = {word: dict(counts) for word, counts in river.feature_counts.items()}
        return cls(dict(river.class_counts), words, dict(river.class_totals))

    def to_river(self) -> MultinomialNB:
        river = MultinomialNB()
        river.class_counts.update(self.tickets)
        river.class_totals.update(self.totals)
        for word, counts in self.words.items():
            river.feature_counts[word].update(counts)
        return river


app = App("tickets")
tickets = app.topic("tickets", value_type=Ticket, partitions=4)
guesses = app.topic("guesses", key_type=str, value_type=Guess, partitions=4)
models = app.Table("models", key_type=str, value_type=Model, default=Model)


@app.agent(tickets)
async def sort(stream: Stream[Ticket]) -> None:
    async for ticket in stream:
        words = Counter(re.findall(r"\w+", ticket.text.lower()))
        river = models[ticket.language].to_river()
        await guesses.send(key=ticket.language, value=Guess(ticket.team, river.predict_one(words)))
        river.learn_one(words, ticket.team)
        models[ticket.language] = Model.of(river)
