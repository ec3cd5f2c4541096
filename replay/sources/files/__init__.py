"""Where files are: found behind paths, globs and URLs, opened, decompressed, and watched for changes."""
