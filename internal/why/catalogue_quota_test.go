package why_test

var quotaFaults = []fault{}
