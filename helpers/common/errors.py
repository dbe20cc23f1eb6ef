"""Open LLM Kit: the code that the five notebooks share.

Promise of this file: what every module needs and nothing else: the error that names its remedy, the project's folders, files that
are complete or absent, and how a command reads its words and ends. It imports no module of the kit.
"""


class KitError(Exception):
    """A mistake that the user can mend: says what is wrong and what to do about it, each in one sentence."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem} {remedy}")
        self.problem, self.remedy = problem, remedy
