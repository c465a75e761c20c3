"""Is a service's SLO met? Histograms, the judge of one request, and the windows that engines report."""
