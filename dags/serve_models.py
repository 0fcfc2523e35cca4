"""DAGs `serve_<name>`: one for each model of the catalog with hours or `idle_after`; one run is one window."""

from __future__ import annotations

from airflow.sdk import DAG  # noqa: F401  (Airflow looks for this word before it runs a file)

from airfreight.catalog import CATALOG
from airfreight_airflow.windows_dags import window_dags

DOCS = """
Serves one model in windows: from the opening of its hours, or from when somebody wakes it, until it is idle or its hours close. Stopped means that
no pod is left and its GPUs are free. Nothing is stopped on a guess: what cannot be seen counts as busy.

| task | what it does | when it fails |
|---|---|---|
| `open_window` | waits until opening minus the measured warm-up, and for a cluster and store that answer; takes the window and begins its record; skips the run when a window is open already | model not delivered; catalog entry wrong; connection `airfreight_store` |
| `resume` | takes the stop away; tried for a quarter of an hour, and left out by then if somebody asked for a stop, or another run keeps a window | no rights in the namespace; from the second try on also `airfreight_store` |
| `wait_until_ready` | waits for whichever release the model carries | image, memory, GPUs: the sentence says which; somebody else stops the model again |
| `ping` | one chat completion; the first token ends the cold start | the model loads and cannot chat |
| `wait_until_idle_or_closing` | watches metrics of every replica through the API server; its log says what it sees: busy, idle, or `cannot see, not stopping` with the reason | never for what it sees; the store is asked again until it answers |
| `stop` | looks once more, then stops; when there is work after all it goes on watching | no rights in the namespace |
| `confirm_stopped` | waits until no pod is left | a pod that hangs on its node; somebody else starts the model again |
| `record` | completes the window's record, for `airfreight report` | as the task before it that failed; also when somebody else had taken away the stop of the window before: the sentence names the field manager |

**On call.** A window that fails leaves the model as it is: it may still run, and cost, until DAG `adopt_models`, unpaused, opens another window for it. The failed task's last log line says what to change; then clear that
task with those after it (downstream), so that the run keeps its window again; or `airfreight stop NAME --now`. A model that does not become ready is stopped ten minutes after `wait_until_ready` gave up. While this DAG is paused
nothing of it runs: no window opens, a woken run waits, and a model that is up stays up; so stop it first. On return the window that should be open is opened, or goes on, and one that is over is ended or left out.

Open a window now: `airfreight wake NAME`, or `POST /airfreight/models/NAME/wake` on Airflow's API server: both say when the model will answer. So does a run started here, in the result of `open_window`.
Stop: `airfreight stop NAME`, or conf `{"action": "stop"}`; `stop_now` does not wait for the end of requests. Sums: `airfreight report`.
"""  # noqa: E501  (a Markdown table row is one line)

globals().update(window_dags(CATALOG, DOCS))
