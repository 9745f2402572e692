"""`python -m anomaly_daemon`: the console script under its module's name."""

from anomaly_daemon.cli import main

raise SystemExit(main())
