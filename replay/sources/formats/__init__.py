"""How files are read: text, CSV, JSON Lines, Parquet and Avro, each by one reader."""
