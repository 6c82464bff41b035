"""Access to remote servers: checked addresses, retries, byte ranges, STAC providers, object stores."""
