"""The one error that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend; its text says what is wrong and what to do."""
