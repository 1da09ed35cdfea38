"""The demo "Film reviews": raters judge how a small policy of our own continues the opening of a film review."""
