"""The course: the roadmap and its modules, the grading of solutions, the proof of the graders, and progress."""

__all__: list[str] = []
