"""HTTP access to servers of others: checked addresses, retries, byte ranges, providers, object stores."""
