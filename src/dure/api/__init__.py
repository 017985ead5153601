"""The public HTTP API: what comes in is decoded strictly, what is refused is problem+json."""
