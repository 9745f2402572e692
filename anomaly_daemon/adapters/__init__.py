"""The edge: Kafka, the embedded SQLite log, files, checkpoint stores."""
