# pyright: standard
"""The same programs without annotations, as Faust's users write them: no errors."""

from anabranch import App, Retry

app = App("plain", broker="kafka://localhost")
words = app.topic("words", value_type=str)
counts = app.Table("counts", default=int)


@app.agent(words, on_failure=Retry(times=3, then="skip"))
async def count(stream):
    async for word in stream:
        counts[word] += 1


@app.agent(sink=[count])
async def answer(stream):
    async for word in stream:
        yield word.upper()


@app.page("/count/{word}/")
async def show(web, request, word):
    return web.json({word: counts[word]})


@app.task()
async def begin():
    await count.cast("a")
    await answer.ask("b")
