"""Long tests of rules: evaluations while workers and primaries go, scripted anomalies, and a count by brute force."""
