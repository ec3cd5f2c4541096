"""Job: DuckDB sums by key, from a file into a CSV file. Runs in an environment of its own."""

from __future__ import annotations

import argparse

import duckdb


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--input", required=True)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--threads", type=int, required=True)
    a = arguments.parse_args()
    duckdb.execute(f"SET threads = {a.threads}")
    # Order of no use: it would have DuckDB keep that of the file.
    duckdb.execute("SET preserve_insertion_order = false")
    read = "read_parquet($input)"
    if not a.input.endswith(".parquet"):
        read = "read_csv($input, header = false, columns = {'key': 'VARCHAR', 'amount': 'BIGINT'})"
    duckdb.execute(
        f"COPY (SELECT key, sum(amount) FROM {read} GROUP BY key) TO '{a.output}' (HEADER false)",
        {"input": a.input},
    )


if __name__ == "__main__":
    main()
