"""What tests share: small models and runs, servers on the loopback, ranks as processes."""
