"""How often the alerts are right: a zoo of small trainings, judged by how they end."""
