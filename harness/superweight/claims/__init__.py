"""The paper's claims, their verdicts, and what verdicts are held against."""
