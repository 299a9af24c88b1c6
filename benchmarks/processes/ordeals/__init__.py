"""What a run may meet: kills, full disks, damaged files and evil servers."""
