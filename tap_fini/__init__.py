"""Singer tap for Fini's chat history."""
