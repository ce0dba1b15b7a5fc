def write_report(result, path):
    pass
