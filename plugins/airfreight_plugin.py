"""Registers Airfreight with Airflow. What it registers lives in the package `airfreight_airflow`."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class AirfreightPlugin(AirflowPlugin):
    """The name under which `airflow plugins` lists Airfreight; the operators and sensors are imported by the DAG
    files.
    """

    name = "airfreight"
