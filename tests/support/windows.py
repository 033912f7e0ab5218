"""Sizes of the windows that pages are opened in."""

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
