"""Counts the page views of each visit.

A visit ends when a user has viewed no page for half an hour of event time. Then its result is sent, once, to the topic
`visits`. Views may be out of order by a minute.
"""

import msgspec
from anabranch import App, Count, Min, Sessions


class View(msgspec.Struct):
    user: str
    page: str
    at: str


app = App("sessions")
views = app.topic("views", value_type=View, time="at", grace="1m")

visits = views.key_by("user").window(Sessions("30m")).aggregate("visits", pages=Count(), first=Min("at"))
visits.final().to("finished-visits")
