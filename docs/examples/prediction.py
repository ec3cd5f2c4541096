"""Predicts how long a taxi trip takes, by a model of each city that learns from every trip.

The model is a value of a table: it is committed with the records that it has learned from, it is restored after a
crash, and a bounded run trains it on years of history. Each trip is predicted before it is learned, so the errors are
those of predictions.

The trips of a city are in one partition and arrive in their order, so two replays of one history give equal models, to
the last bit: `anabranch verify` compares their digests.
"""

import msgspec
from anabranch import App, Stream


class Trip(msgspec.Struct):
    city: str
    km: float
    minutes: float


class Prediction(msgspec.Struct):
    km: float
    minutes: float
    predicted: float


class Model(msgspec.Struct):
    """Least squares over all trips so far, by the means and sums that Welford's method updates."""

    trips: int = 0
    mean_km: float = 0.0
    mean_minutes: float = 0.0
    sum_km_km: float = 0.0
    sum_km_minutes: float = 0.0
    sum_errors: float = 0.0

    def predict(self, km: float) -> float:
        slope = self.sum_km_minutes / self.sum_km_km if self.sum_km_km else 0.0
        return self.mean_minutes + slope * (km - self.mean_km)

    def learn(self, trip: Trip) -> None:
        self.sum_errors += abs(trip.minutes - self.predict(trip.km))
        self.trips += 1
        km = trip.km - self.mean_km
        self.mean_km += km / self.trips
        self.mean_minutes += (trip.minutes - self.mean_minutes) / self.trips
        self.sum_km_km += km * (trip.km - self.mean_km)
        self.sum_km_minutes += km * (trip.minutes - self.mean_minutes)


app = App("prediction")
trips = app.topic("trips", value_type=Trip, partitions=4)
predictions = app.topic("predictions", key_type=str, value_type=Prediction, partitions=4)
models = app.Table("models", key_type=str, default=Model)


@app.agent(trips)
async def predict(stream: Stream[Trip]) -> None:
    async for trip in stream:
        model = models[trip.city]
        await predictions.send(key=trip.city, value=Prediction(trip.km, trip.minutes, round(model.predict(trip.km), 1)))
        model.learn(trip)  # changes the value in the table
