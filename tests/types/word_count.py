# pyright: strict
"""A word count in Faust's style."""

from typing import reveal_type

from anabranch import App, Stream

app = App("word-count", broker="kafka://localhost:9092", store="memory://", version=1, topic_partitions=8)
posts = app.topic("posts", value_type=str)
words = app.topic("words", key_type=str, value_type=str, partitions=8, retention=3600.0)
counts = app.Table("counts", key_type=str, value_type=int, default=int, help="occurrences by word")


@app.agent(posts)
async def shuffle_words(posts: Stream[str]) -> None:
    async for post in posts:
        reveal_type(post)  # str
        for word in post.split():
            await words.send(key=word, value=word)


@app.agent(words)
async def count_words(stream: Stream[str]) -> None:
    async for word in stream.group_by(lambda word: word.lower()):
        counts[word] += 1
        reveal_type(counts[word])  # int


@app.agent(words, name="long")
async def long_words(stream: Stream[str]) -> None:
    async for word in stream.filter(lambda word: len(word) > 10).echo("long-words").through("passed"):
        reveal_type(word)  # str


@app.agent(words, name="by-event")
async def by_event(stream: Stream[str]) -> None:
    async for event in stream.events():
        reveal_type(event)  # Event[str]
        reveal_type(event.value)  # str
        print(event.headers["source"], event.message.offset, event.row)


@app.agent(words, name="by-item")
async def by_item(stream: Stream[str]) -> None:
    async for key, word in stream.items():
        reveal_type(word)  # str
        print(key)
    async for number, word in stream.enumerate():
        reveal_type(number)  # int
        reveal_type(word)  # str


@app.agent(words, name="by-batch")
async def by_batch(stream: Stream[str]) -> None:
    async for batch in stream.batches():
        reveal_type(batch)  # RecordBatch[str]
        reveal_type(batch.values)  # list[str]
        reveal_type(batch[0])  # str
        for word in batch:
            reveal_type(word)  # str
        print(batch.topic, batch.partition, batch.offset, batch.timestamps_ms)


@app.agent(words, name="by-take")
async def by_take(stream: Stream[str]) -> None:
    async for some in stream.take(100, within=1.0):
        reveal_type(some)  # list[str]
    async for events in stream.take_events(100):
        reveal_type(events)  # list[Event[str]]
