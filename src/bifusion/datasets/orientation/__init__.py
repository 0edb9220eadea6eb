"""Which way is up in a scan whose format does not say it, and along which axes its walls run."""
