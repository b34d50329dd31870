"""Tests of the ways in for those who are not on trio. They run threads, and so in real time; none sleeps."""
