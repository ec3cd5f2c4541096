"""Job: PySpark sums by key, from a file into a folder of text files, on so many local threads.

`rdd` is the job of Spark's own first examples; `frame` the same as a DataFrame, from text or Parquet. Runs in an
environment of its own.
"""

from __future__ import annotations

import argparse
from operator import add

from pyspark.sql import SparkSession, functions


def parsed(line: str) -> tuple[str, int]:
    key, amount = line.split(",")
    return key, int(amount)


def rdd(spark: SparkSession, source: str, result: str) -> None:
    totals = spark.sparkContext.textFile(source).map(parsed).reduceByKey(add)
    totals.map(lambda pair: f"{pair[0]},{pair[1]}").saveAsTextFile(result)


def frame(spark: SparkSession, source: str, result: str) -> None:
    if source.endswith(".parquet"):
        amounts = spark.read.parquet(source)
    else:
        amounts = spark.read.schema("key STRING, amount BIGINT").csv(source)
    amounts.groupBy("key").agg(functions.sum("amount")).write.csv(result)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--input", required=True)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--threads", type=int, required=True)
    arguments.add_argument("--form", choices=["rdd", "frame"], required=True)
    a = arguments.parse_args()
    spark = (
        SparkSession.builder.master(f"local[{a.threads}]")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "2g")
        .config("spark.ui.enabled", "false")
        # As many as there are threads: the result is small, and 200 partitions (the default) are for clusters.
        .config("spark.sql.shuffle.partitions", a.threads)
        .getOrCreate()
    )
    {"rdd": rdd, "frame": frame}[a.form](spark, a.input, a.output)
    spark.stop()


if __name__ == "__main__":
    main()
