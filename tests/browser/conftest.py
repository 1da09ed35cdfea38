"""What all browser tests share."""

from playwright.sync_api import expect

expect.set_options(timeout=15_000)  # a page of a busy machine is slow, not wrong
