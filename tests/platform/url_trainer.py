"""The command line with short waits, for a test that kills it: `url_trainer.py train ... --runs URL`."""

from footplate import cli, lease, mirror

mirror.SECONDS_BETWEEN_PASSES = 0.02
lease.LEASE_SECONDS = 2.0
lease.RENEWAL_SECONDS = 0.2

if __name__ == "__main__":
    cli.main()
