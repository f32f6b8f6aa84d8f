"""Tasks over a text, as summarizing it: what a conversing model is asked, in templates that a user can edit.

A file of templates is TOML with a table for each task; its `prompt` names {text}, and {question} or {language} where
the user says them: see `TASKS`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from fourfold.core.errors import UserError, nearest
from fourfold.core.run import Run

FILE = "tasks.toml"
"""In a run's folder: the templates of its tasks."""
TASKS = '''\
# What `fourfold generate RUN TEXT --task NAME` asks. {text} is the text, {question} and {language} are the options of these
# names; a line whose place nothing is said for is left out. Change these, or add tables of your own.

[summarize]
prompt = """
Summarize the following text.

{text}"""

[answer]
prompt = """
Answer the question.

{text}
{question}"""

[translate]
prompt = """
Translate the following text to {language}.

{text}"""
'''
PLACES = ("text", "question", "language")


def templates(run: Run, file: Path | None) -> dict[str, str]:
    """The templates of tasks by name: of a file, else of the run's folder, else the usual ones.

    Raises:
        UserError: the file cannot be read, or is no file of templates.
    """
    own = run.folder / FILE if run.folder is not None else None
    path = file if file is not None else own if own is not None and own.is_file() else None
    try:
        tree = tomllib.loads(TASKS if path is None else path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not a file of task templates ({error})") from error
    found = {}
    for name, table in tree.items():
        prompt = table.get("prompt") if isinstance(table, dict) else None
        if not isinstance(prompt, str):
            raise UserError(f'{path}, task {name}: expected [{name}] with prompt = "..."')
        for place in re.findall(r"\{(\w+)\}", prompt):
            if place not in PLACES:
                raise UserError(
                    f"{path}, task {name}: unknown place {{{place}}}{nearest(place, PLACES)}"
                )
        if "{text}" not in prompt:
            raise UserError(f"{path}, task {name}: its prompt has no place for the {{text}}")
        found[name] = prompt.strip("\n")
    return found


def asked(template: str, task: str, text: str, *, question: str, language: str) -> str:
    """What the model is asked.

    Raises:
        UserError: a question is given and the task has no place for it.
    """
    if question and "{question}" not in template:
        raise UserError(f"--question: the task {task} has no place for one")
    said = {"text": text, "question": question, "language": language}
    empty = [f"{{{place}}}" for place, words in said.items() if not words]
    lines = [line for line in template.split("\n") if not any(place in line for place in empty)]
    return re.sub(r"\{(text|question|language)\}", lambda m: said[m[1]], "\n".join(lines))
