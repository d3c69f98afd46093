"""What test files share that is not a fixture: networks, small data sets and a web server made for tests.

Fixtures are in conftest.py. mypy checks this package as strictly as the package under test.
"""
