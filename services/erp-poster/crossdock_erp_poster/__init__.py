"""Service erp-poster: domain facts become business documents, each posted to the ERP once and in order."""
