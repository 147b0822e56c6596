"""What inference and training share of Apache Spark: a session, or one line that says what is missing for one."""
