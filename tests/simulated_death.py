"""The end of a process, in tests that have none of their own to lose."""


class Died(BaseException):
    """With the fixture `mortal`, what is marked when this is raised stays marked."""
