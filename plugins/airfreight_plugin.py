"""Registers Airfreight with Airflow. What it registers lives in the package `airfreight_airflow`."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from airfreight_airflow.waking_app import WakingApp
from airfreight_airflow.windows_timetable import OpeningsTimetable


class AirfreightPlugin(AirflowPlugin):
    """The name under which `airflow plugins` lists Airfreight; the operators and sensors are imported by the DAG
    files.
    """

    name = "airfreight"
    # Airflow makes a schedule again from the database only if its class is registered.
    timetables = [OpeningsTimetable]  # noqa: RUF012  (the base class says so)
    fastapi_apps = [{"app": WakingApp(), "url_prefix": "/airfreight", "name": "Airfreight"}]  # noqa: RUF012
