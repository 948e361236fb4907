"""The pipeline for a cluster that has none of our tasks: it takes each from the git repository that it is in itself.

`make git-pipeline` writes it (python -m tests.conformance.from_git).
"""

import re

from tests.conformance.shipped import FROM_GIT, PIPELINE

_HEAD = "# stuntime.yaml, with tasks that Tekton's git resolver brings: made by `make git-pipeline`, not by hand.\n"
_PARAMS = """\
    - name: git-url
      description: The git repository that the tasks are in.
    - name: git-revision
      description: The branch, tag or commit of the tasks.
      default: main
"""
_TASK_REF = re.compile(r"^( *)taskRef:\n +name: ([a-z-]+)\n", re.MULTILINE)


def from_git(pipeline: str) -> str:
    """Return the text of a pipeline whose tasks are installed as one whose tasks come from git."""

    def resolved(found: re.Match[str]) -> str:
        place = {
            "url": "$(params.git-url)",
            "revision": "$(params.git-revision)",
            "pathInRepo": f"tasks/{found[2]}/{found[2]}.yaml",
        }
        lines = ["taskRef:", "  resolver: git", "  params:"]
        for name, value in place.items():
            lines += [f"    - name: {name}", f"      value: {value}"]
        return "".join(f"{found[1]}{line}\n" for line in lines)

    named = pipeline.replace("\n  name: stuntime\n", "\n  name: stuntime-git\n", 1)
    return _HEAD + _TASK_REF.sub(resolved, named.replace("\n  params:\n", f"\n  params:\n{_PARAMS}", 1))


if __name__ == "__main__":
    FROM_GIT.write_text(from_git(PIPELINE.read_text()))
