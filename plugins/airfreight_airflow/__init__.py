"""What of Airfreight needs Airflow: the house operator, the sensors and their triggers, and the settings.

settings.py      the only reader of Airflow's configuration
requests.py      a person's request: unknown keys, source, service name; pure, no Airflow
form.py          the trigger form, from the schema of the request
failures.py      an Airfreight error becomes "fail" or "retry" of an Airflow task
hooks.py         the cluster as Airflow's connection knows it, and what keeps a pod from starting
explanations.py  why a pod's task ended early, in one sentence
pods.py          who the pods are, what they may do, what they are told
operators.py     one pod that runs one `airfreight` command
sensors.py       wait for a release, deferred
triggers.py      the waiting itself, in the triggerer
reports.py       what a finished run leaves behind for people
waking_app.py    one REST call that wakes a model, on Airflow's API server; loads `waking_endpoint.py` when it is called
"""
