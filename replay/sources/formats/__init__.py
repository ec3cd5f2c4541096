"""The file formats: text, CSV, JSON Lines, Parquet and Avro, each with one reader."""
