"""Files and streams of texts, on this machine or on Spark."""
