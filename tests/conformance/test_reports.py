"""The same reports from every store."""

from farthing.testing.report_contract import ReportContract


class TestSqliteReports(ReportContract):
    opener = "farthing.testing.report_stores:sqlite"


class TestPostgresReports(ReportContract):
    opener = "farthing.testing.report_stores:postgres"


class TestParquetReports(ReportContract):
    opener = "farthing.testing.report_stores:parquet"


class TestClickHouseReports(ReportContract):
    opener = "farthing.testing.report_stores:clickhouse"


class TestRolledUpReports(ReportContract):
    opener = "farthing.testing.report_stores:rolled"
