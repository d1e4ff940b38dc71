"""What several tests share: tables of every factory, problems, explicit matrices."""
