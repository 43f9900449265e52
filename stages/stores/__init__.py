"""The stores: four tables in Parquet, what each holds and came from, and how they are written, read and fetched."""
