"""Sensor graphs as neighbour tables of fixed degree; nothing here is N x N."""
